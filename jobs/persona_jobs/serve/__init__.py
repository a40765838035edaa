"""An OpenAI-compatible server for one checkpoint: `python -m persona_jobs.serve`.

- `protocol`: requests and answers of the chat completions API, validated.
- `api_errors`: errors in the API's form.
- `prompt`: messages to token ids, within the context length.
- `sampling`: a request's settings as a generation configuration.
- `text_stream`: tokens to text as they come, and stop strings.
- `engine`: the model and the one thread that runs it.
- `scheduler`: the bounded queue in front of the engine.
- `chat`: the chat completions endpoint, streamed and whole.
- `metrics`: what Prometheus reads.
- `app`: the routes.
- `server`: sockets, signals and the graceful stop.
"""
