"""vLLM servers that we start: their GPUs, their ports, their supervision, and their end.

- `vllm_server.py`: starts the replicas and waits until they are ready
- `supervisor.py`: a small program that ends a server when its owner is gone, even after SIGKILL
- `gpus.py`, `ports.py`: which GPUs and ports a replica gets

Requests to the servers are in `backends/_openai/`.
"""
