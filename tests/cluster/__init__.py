"""A Kubernetes to test on: `python -m tests.cluster up|down|status|images|kubeconfig|env`.

The first provider that fits gives it: the kube context named by SPILLWAY_CONTEXT, kind where docker or podman runs, else
a single node made of host processes (package `embedded`). `images` builds Spillway's images and the engine's and hands
them to that provider. Nothing here knows what Spillway does; it only knows how to build it and where to put it.
"""
