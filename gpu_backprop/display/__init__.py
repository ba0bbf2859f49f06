"""How results are shown: texts made safe, HTML for notebooks and reports, charts as SVG. It imports nothing of ours."""
