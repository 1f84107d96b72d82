"""``mltrigger k8s``: manifests of workers for Kubernetes. It calls no cluster."""
