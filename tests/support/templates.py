"""Chat templates that treat system messages in different ways."""

TURN = "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
OPENING = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
IGNORES = (
    "{% for message in messages %}{% if message['role'] != 'system' %}"
    + TURN
    + "{% endif %}{% endfor %}"
    + OPENING
)
REFUSES = (
    "{% for message in messages %}{% if message['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    + TURN
    + "{% endfor %}"
    + OPENING
)
THINKING = (
    "{% for message in messages %}"
    + TURN
    + "{% endfor %}"
    + OPENING
    + "{% if add_generation_prompt and enable_thinking is defined and enable_thinking is false %}"
    "{{ '<think>\n\n</think>\n\n' }}{% endif %}"
)

# Gemma's form: the answer ends with a token that is not the tokenizer's end of sequence.
GEMMA = (
    "{% for message in messages %}"
    "{{ '<|endoftext|>' + message['role'] + '\n' + message['content'] | trim + '<|im_start|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|endoftext|>assistant\n' }}{% endif %}"
)
