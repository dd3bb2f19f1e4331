"""The variational autoencoders, ours and the paper's: networks, latent arithmetic, checkpoints, the default model."""
