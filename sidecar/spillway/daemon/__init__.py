"""The sidecar process: lifecycle, the loop between core and policy, HTTP. Policy decides, the core moves bytes."""
