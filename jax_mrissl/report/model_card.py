"""A model card for a finetuned network: Markdown, in the sections of Hugging Face."""

from jax_mrissl.report.pages import render
from jax_mrissl.report.run_facts import RunFacts, metric_parts, metric_words


def model_card(facts: RunFacts, *, label: str, mode: str) -> str:
    """Writes the card of one arm; same facts, same text.

    Args:
        facts: of the run's page.
        label: the arm's, as the tables have it.
        mode: 'linear' or 'full'.
    """
    tables = []
    for table in facts.tables:
        own = [row for row in table.rows if row.label == label]
        rows = [*(row for row in table.rows if row.role == 'baseline'), *own]
        tables.append(
            (
                table,
                [
                    (
                        row,
                        [
                            ' '.join(
                                metric_parts(name, row.estimates.get(name))
                            ).strip()
                            for name in table.metrics
                        ],
                    )
                    for row in rows
                ],
            )
        )
    return render(
        'model_card.md',
        facts=facts,
        label=label,
        mode=mode,
        tables=tables,
        words=metric_words,
    )
