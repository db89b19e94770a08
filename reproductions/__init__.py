"""Results of papers, made again; each part prints the paper's numbers beside ours."""
