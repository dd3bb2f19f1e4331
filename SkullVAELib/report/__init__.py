"""Pictures, ratings, the HTML report and the files of a result."""
