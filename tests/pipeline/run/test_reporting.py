"""The page of a run: names of classes, causes and folders are text, whatever they look like."""

from markdown_it import MarkdownIt

from pipeline.run.reporting import Count, Summary, markdown

CLASSES = ("<img src=x>", "[click](https://example.com)", "a|b", "two\n# lines")
CAUSE = "decode: `bad` | ![x](https://example.com)"


def summary() -> Summary:
    return Summary(
        run="r20260101T000000-abcd",
        model="m",
        images="/data/a`b|c",
        output="/out/<b>",
        found=5,
        known=0,
        skipped={"<i>": 2},
        rows=5,
        ok=4,
        abstained=0,
        error=1,
        classes=tuple(Count(name=name, rows=1) for name in CLASSES),
        causes=(Count(name=CAUSE, rows=1),),
        shards=1,
        resumed_shards=0,
        workers=1,
        worker_kind="inline",
        engine="torch",
        seconds={"classify": 1.0},
        images_per_second=5.0,
        peak_memory_driver=2**20,
        peak_memory_worker=2**20,
        account=None,
    )


def test_names_are_text() -> None:
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(markdown(summary()))
    inline = [child for token in tokens for child in token.children or ()]
    assert {token.type for token in inline} <= {"text", "text_special", "code_inline"}
    assert not [token for token in tokens if token.type == "html_block"]
    shown = ["".join(child.content for child in token.children) for token in tokens if token.type == "inline"]
    for name in (*CLASSES, CAUSE, "2 <i>"):
        assert " ".join(name.split()) in shown
    assert "Parquet: /out/<b>" in shown
    assert any("5 images of /data/a`b|c classified by m" in line for line in shown)
