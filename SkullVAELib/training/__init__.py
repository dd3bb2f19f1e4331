"""Training of both methods: configuration, losses, tasks, trainer, distributed training, runs."""
