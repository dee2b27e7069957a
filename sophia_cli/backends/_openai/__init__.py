"""Parts of the openai and vllm backends.

- `chat_api.py`: a sample as a chat request; `chat_response.py`: a response as a completion, finish reasons, refusals
- `client.py`: many requests in flight, queues and retries; `client_config.py`: how they are sent
- `exchange.py`: one request, and what its response means; `served_model.py`: the model as the servers list it
- `load_balancer.py`: which server gets the next request, and which servers back off
- `retry_after.py`: how long a server asks to wait
- `http.py`, `http_errors.py`, `tls.py`: connections, and why there is no response
- `proxy.py`, `connect.py`: proxies, and limits of sockets
"""
