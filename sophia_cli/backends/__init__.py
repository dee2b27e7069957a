"""Where a model runs: one file per backend, with a class `Backend` that implements `inference.types.Backend`.

- `hf.py`: transformers in this process (`_hf/` holds its parts)
- `openai.py`: OpenAI-compatible servers (`_openai/` holds the client, the load balancer and the chat API)
- `vllm.py`: starts vLLM servers (`serving/`) and uses the same client

How to add one: docs/adding-a-backend.md. A new finish reason of a server belongs in `_openai/chat_response.py`.
"""
