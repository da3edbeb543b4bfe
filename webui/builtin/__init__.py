"""Stable Diffusion as kinds of job: an extension like any other, under the same contract, that comes with the studio.

It alone may import webui.imaging and webui.weights besides the contract.
"""
