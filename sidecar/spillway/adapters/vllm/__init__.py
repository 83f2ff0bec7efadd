"""vLLM 0.32: a general plugin that puts Spillway's connector into an engine, and the connector with its copy worker.

Nothing here may raise into the engine, on any rank: what goes wrong makes the connector inert, with one log line and a counter.
This file imports nothing, because vLLM imports the plugin in every one of its processes.
"""
