"""SQL of which nothing but reading the published predictions can come: what `query` lets through.

Two locks, for neither is enough alone. DuckDB may open files below some folders only, loads no extension and takes no
more settings; but it may still write into those folders. So a statement is let through only if all of it reads, which
DuckDB's own parser is asked: a `COPY` may hide in a `WITH`.
"""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import duckdb
from duckdb import StatementType, token_type

from pipeline.errors import RequestError
from pipeline.place import Place
from pipeline.run.sql_files import literal, quoted

READS = ("SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE", "STATEMENT_NODE")
# Words that make a statement write which the parser has no tree for: EXPLAIN, and PIVOT over values not listed.
WRITES = frozenset(("ALTER", "ATTACH", "COPY", "CREATE", "DELETE", "EXPORT", "INSERT", "MERGE", "UPDATE"))
# The kinds of nodes in a tree as JSON, which may be deeper than Python reads. A quote in a string has a backslash.
NODE = re.compile(r'"type":\s*"(\w*_NODE)"')
NO_TREE = re.compile(r'\{"error":\s*true')
# Comments in comments are left alone: where those end, parsers differ.
COMMENTS = re.compile(r"(?:\s|--[^\r\n]*\n|/\*(?:(?!/\*|\*/).)*\*/)*", re.DOTALL)
PRAGMA = re.compile(r"PRAGMA\s+(show_tables|table_info\('(current|predictions|refused)'\))\s*;?\s*", re.IGNORECASE)
EXPLAIN = re.compile(r"\s*EXPLAIN\s+(ANALYZE\s+)?(\(\s*(FORMAT|ANALYZE)\b[\w\s,]*\)\s*)?", re.IGNORECASE)
REFUSED = (
    "Only one statement that reads is let through (SELECT, FROM, WITH, VALUES, PIVOT, DESCRIBE, SUMMARIZE, SHOW, "
    "EXPLAIN); --unsafe lets through all that DuckDB can do."
)


def lock(database: duckdb.DuckDBPyConnection, output: Path, folders: Sequence[Path]) -> None:
    """Let a database open no file but those below `folders`, which lie in `output`, for good.

    Raises `RequestError` where a symbolic link there leads out of the output: DuckDB follows what a pattern finds.
    """
    for link in (link for folder in folders for link in _links(folder)):
        if not link.resolve().is_relative_to(output.resolve()):
            raise RequestError(f"{link} is a symbolic link that leads out of the output. --unsafe follows it.")
    # DuckDB looks at a pattern before it looks at what the pattern finds, so that both are allowed.
    _lock(database, "allowed_directories", (spelt for folder in folders for spelt in (folder, literal(folder))))


def lock_files(database: duckdb.DuckDBPyConnection, files: Sequence[Place]) -> None:
    """Let a database open none but these files of a store, for good."""
    _lock(database, "allowed_paths", files)


def _lock(database: duckdb.DuckDBPyConnection, allowed: str, places: Iterable[Place]) -> None:
    for setting in (
        "python_enable_replacements = false",  # variables of this very program are tables otherwise
        f"{allowed} = [{', '.join(map(quoted, places))}]",
        "enable_external_access = false",
        "lock_configuration = true",
    ):
        database.execute(f"SET {setting}").fetchall()


def _links(folder: Path) -> Iterator[Path]:
    """The symbolic links at and below a folder."""
    if folder.is_symlink():
        yield folder
    waiting: list[str | Path] = [folder]
    while waiting:
        with suppress(OSError), os.scandir(waiting.pop()) as entries:  # what cannot be listed, DuckDB does not read
            for entry in entries:  # which know what they are, without a look at each file
                if entry.is_symlink():
                    yield Path(entry.path)
                elif entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)


def check(database: duckdb.DuckDBPyConnection, sql: str) -> None:
    """Raise `RequestError` unless `sql` is one statement and all of it reads; `duckdb.Error` where it is no SQL."""
    statements = database.extract_statements(sql)
    if len(statements) != 1 or not _reads(database, sql, statements[0].type):
        raise RequestError(REFUSED)


def _reads(database: duckdb.DuckDBPyConnection, sql: str, kind: StatementType) -> bool:
    sql = COMMENTS.sub("", sql, count=1)
    if kind == StatementType.PRAGMA:
        return PRAGMA.fullmatch(sql) is not None
    if kind == StatementType.EXPLAIN:
        explain = EXPLAIN.match(sql)
        rest = sql[explain.end() :] if explain else ""
        kinds = [each.type for each in database.extract_statements(rest)]
        return len(kinds) == 1 and kinds[0] != StatementType.EXPLAIN and _reads(database, rest, kinds[0])
    if kind not in (StatementType.SELECT, StatementType.MULTI):
        return False
    ((tree,),) = database.execute("SELECT json_serialize_sql(CAST($1 AS VARCHAR))", [sql]).fetchall()
    if NO_TREE.match(tree):
        return not WRITES & _words(sql)
    nodes = NODE.findall(tree)
    return bool(nodes) and all(node in READS for node in nodes)


def _words(sql: str) -> set[str]:
    """The words of a statement in capitals, without what stands in quotes and comments."""
    text = sql.encode()
    tokens = duckdb.tokenize(sql)
    ends = [place for place, _ in tokens[1:]] + [len(text)]
    return {
        text[place:end].strip().decode().upper()
        for (place, kind), end in zip(tokens, ends, strict=True)
        if kind not in (token_type.string_const, token_type.comment)
    }
