"""An OpenAI-compatible server for one checkpoint: `python -m persona_jobs.serve`.

- `protocol`: requests and answers of the chat completions API, validated.
- `api_errors`: errors in the API's form.
- `access`: API keys and the origins of web pages.
- `bodies`: reading of request bodies within limits.
- `prompt`: messages to token ids, within the context length.
- `sampling`: a request's settings, and the choice of a token by them.
- `text_stream`: text of a growing token sequence, and stop strings.
- `token_bytes`, `logprobs`: tokens and their log-probabilities in the API's form.
- `engine`: the model and its tokenizer.
- `batch`: the requests that the model works on at the same time.
- `answer`: the text of one answer, made of its tokens.
- `models`: the served models, each with its engine and queue.
- `scheduler`: the bounded queue in front of the batch, and the thread that runs it.
- `chat`: the chat completions endpoint, streamed and in one piece.
- `page`: the chat page at `/`.
- `cpus`: the number of processors that the container may use.
- `metrics`: the metrics that Prometheus reads.
- `app`: the routes.
- `server`: sockets, signals and graceful shutdown.
"""
