"""What developing, testing and trying Spillway stands on and no user installs: `dev.cluster` gives a Kubernetes."""
