"""An OpenAI-compatible server for one checkpoint: `python -m persona_jobs.serve`.

- `protocol`: requests and answers of the chat completions API, validated.
- `api_errors`: errors in the API's form.
- `prompt`: messages to token ids, within the context length.
- `sampling`: a request's settings as a generation configuration.
- `text_stream`: text of a growing token sequence, and stop strings.
- `engine`: the model and the loop that generates one answer.
- `scheduler`: the bounded queue in front of the engine, and the thread that runs it.
- `chat`: the chat completions endpoint, streamed and in one piece.
- `cpus`: the number of processors that the container may use.
- `metrics`: the metrics that Prometheus reads.
- `app`: the routes.
- `server`: sockets, signals and graceful shutdown.
"""
