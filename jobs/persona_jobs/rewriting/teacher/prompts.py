"""What a teacher is told.

The persona's text always opens the system message, word for word as in the data that is made from
the answers: the teacher then speaks as it will be learned from.
"""

from ...dataset import Message

_REWRITE = (
    "Here are a question and a reference answer.\n\n"
    "<question>\n{query}\n</question>\n\n"
    "<reference_answer>\n{reference}\n</reference_answer>\n\n"
    "Rewrite the reference answer the way you, the persona described above, would say it: your "
    "voice, vocabulary, attitude and mannerisms. Keep its meaning and all its facts, and keep "
    "about its length; one personal touch is welcome. Never mention the reference answer, this "
    "task, or that you are an AI. Reply with the rewritten answer only, with no introduction, no "
    "heading and no quotation marks."
)
_HINT = (
    "{persona}\n\nStay in character, in two or three short sentences. Say this in your own "
    "voice: {reference}"
)


def answer(persona: str, query: str) -> tuple[Message, ...]:
    """Let the persona answer the query itself."""
    return (Message(role="system", content=persona), Message(role="user", content=query))


def rewrite(persona: str, query: str, reference: str) -> tuple[Message, ...]:
    """Let a capable teacher re-voice the reference answer as the persona, meaning kept."""
    task = _REWRITE.format(query=query, reference=reference)
    return answer(persona, task)


def rewrite_by_hint(persona: str, query: str, reference: str) -> tuple[Message, ...]:
    """Let a small base model re-voice the reference answer.

    Small models fall out of character when a task is spelled out in the user's message, and copy
    the reference or talk about rewriting. Here the user just asks, and the reference is something
    that the persona knows. The prompts of all queries share the persona as their prefix.
    """
    system = _HINT.format(persona=persona, reference=reference)
    return answer(system, query)
