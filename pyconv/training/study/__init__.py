"""The lesson's experiments, each of them one command: `pyconv study`.

A study (`plan`) varies a network; each variant is trained once a seed (`runs`), measured on both
engines (`results`) and written down beside the lesson's own figures (`report`, `plots`).
"""
