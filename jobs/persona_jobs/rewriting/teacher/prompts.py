"""Prompts for the teacher.

The persona's text always opens the system message, word for word as in the resulting data set, so
that the teacher speaks as the student will.
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
    """Build a prompt in which the persona answers the query itself."""
    return (Message(role="system", content=persona), Message(role="user", content=query))


def rewrite(persona: str, query: str, reference: str) -> tuple[Message, ...]:
    """Build a prompt in which a capable teacher re-voices the reference answer."""
    task = _REWRITE.format(query=query, reference=reference)
    return answer(persona, task)


def rewrite_by_hint(persona: str, query: str, reference: str) -> tuple[Message, ...]:
    """Build a prompt in which a small base model re-voices the reference answer.

    Small models lose the character when the user's message describes a task: they copy the
    reference or talk about rewriting. Here the user only asks the question, and the reference is
    something that the persona knows. The prompts of all queries share the persona as their prefix.
    """
    system = _HINT.format(persona=persona, reference=reference)
    return answer(system, query)
