"""The pocket model's training: our own small Stable Diffusion, made from portraits that this folder draws itself."""
