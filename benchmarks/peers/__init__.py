"""Other software with the same answers, each a script of its own: what Shardseer is measured against.

Each reads a folder of JPEGs, classifies them with the network of the default bundle and writes Parquet with `path`,
`label` and `confidence`. Its last line is JSON: `images`, and `seconds`, the wall seconds of the loop without start-up.
"""
