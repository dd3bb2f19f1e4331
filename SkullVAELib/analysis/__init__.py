"""The report on a training run: diagnostics, figures, HTML."""
