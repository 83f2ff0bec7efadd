"""A real vLLM against a real sidecar daemon, without Kubernetes. The engines run in vLLM's own environment (`setup.sh`)."""
