"""The admission webhook: decodes a pod, asks `injection`, answers with a JSON patch. Stateless but for watch caches.

It never refuses a pod: whatever goes wrong, the answer is "allowed" and the reason is visible on the pod. It shares nothing
with the controller's process, so that the operator may be down while pods are injected.
"""
