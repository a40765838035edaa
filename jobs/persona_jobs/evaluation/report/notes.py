"""How the figures of the report were measured, in sentences."""

from ..speed import DECODE_TOKENS, PROMPT_TOKENS


def measurement_notes(
    *,
    temperature: float,
    max_answer_tokens: int,
    seed: int,
    bootstrap_samples: int,
    persona_examples: int,
    generic_examples: int,
    speed_rounds: int,
    mask_difference: float | None,
) -> list[str]:
    """Return the notes.

    Args:
        temperature: sampling temperature of the answers.
        max_answer_tokens: longest answer.
        seed: the spec's seed.
        bootstrap_samples: number of resamples.
        persona_examples: held-out conversations of the persona.
        generic_examples: held-out general instructions.
        speed_rounds: speed measurements per model.
        mask_difference: largest difference of log-probabilities between the masked and the sliced
            model, or None if it was not measured.
    """
    notes = [
        f"Answers are sampled at temperature {temperature} with at most {max_answer_tokens} tokens "
        "each; all variants draw the same random numbers for a question "
        f"(seed {seed}).",
        "The persona score of an answer is voice x relevance x fluency x originality, all from the "
        "dense model's probabilities of the answer's tokens; a question's score is the mean over "
        "its answers, and an empty answer has 0. The score cannot see whether what is said is "
        "true, or consistent with other answers.",
        "The 95 % intervals are over the questions: a Bayesian bootstrap with "
        f"{bootstrap_samples} draws for a score, Student's t with a correction for skewness for "
        "the paired difference from the dense model, Fieller's interval for the score in percent "
        "of the dense model's. With fewer than five questions there is "
        "none. They cover neither other personas nor other seeds.",
        f"Persona loss and KL use {persona_examples} held-out conversations of the persona, "
        f"generic loss and KL {generic_examples} held-out instructions without the persona.",
        f"Speed is measured with a prompt of {PROMPT_TOKENS} tokens and {DECODE_TOKENS} decoded "
        f"tokens for a batch of one: medians of {speed_rounds} alternating rounds, with the "
        "slowest and the fastest. All sliced models have the same shapes: one is timed.",
    ]
    if mask_difference is not None:
        notes.append(
            "The masked model computes the same function as the sliced one: on one batch their "
            f"log-probabilities differ by at most {mask_difference:.2g}. They share one "
            "measurement of score and losses. A masked model saves no computation."
        )
    return notes
