"""Kubernetes clusters to try and to test on: `python -m dev.cluster [--cluster demo|e2e] up|down|status|images|...`.

The first provider that fits gives one: the kube context named by SPILLWAY_CONTEXT, kind where docker or podman runs, else
a single node made of host processes (package `embedded`). `images` builds Spillway's images and the engine's and hands
them to that provider. Nothing but `installation` knows what Spillway does; the rest knows how to build it and where to
put it.
"""
