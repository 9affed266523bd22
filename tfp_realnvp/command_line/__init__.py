"""The commands of `python -m tfp_realnvp`: fit, score and sample. They need `pip install 'tfp_realnvp[cli]'`."""
