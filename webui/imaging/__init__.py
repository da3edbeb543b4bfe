"""Pictures by Stable Diffusion: from a request to pixels. Knows no job, no page and no plugin."""
