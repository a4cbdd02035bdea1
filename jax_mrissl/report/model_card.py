"""A model card for a finetuned network: Markdown, in the sections of Hugging Face."""

from jax_mrissl.report.pages import render
from jax_mrissl.report.run_facts import (
    PRETRAINING,
    RunFacts,
    cost_table,
    metric_parts,
    metric_words,
)


def model_card(facts: RunFacts, *, label: str, mode: str, pretrained: bool) -> str:
    """Writes the card of one arm; same facts, same text.

    Args:
        facts: of the run's page.
        label: the arm's, as the tables have it.
        mode: 'linear' or 'full'.
        pretrained: whether its encoder is; else pretraining is no part of the card.
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
    stages = [
        stage
        for stage in facts.stages
        if stage.arm == label or (pretrained and not stage.arm)
    ]
    return render(
        'model_card.md',
        facts=facts,
        label=label,
        mode=mode,
        stages=stages,
        cost=cost_table(stages),
        cards=[card for card in facts.cards if pretrained or card.tested],
        leaks=[x for x in facts.leaks if pretrained or x[0] != PRETRAINING],
        methods=[x for x in facts.methods if pretrained or x[0] != PRETRAINING],
        tables=tables,
        words=metric_words,
    )
