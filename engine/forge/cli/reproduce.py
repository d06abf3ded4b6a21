"""reproduce: carry out a recorded step again, as another functionary of its role."""

from typing import Annotated

import typer

from forge.cli.place import reader_of


def reproduce(
    context: typer.Context,
    step: Annotated[str, typer.Argument(help="A recorded step of the commit, such as curate/handbook.")],
    ref: Annotated[str, typer.Option(help="The commit that asks for the step.")] = "HEAD",
) -> None:
    """Carry out a recorded step again and sign, with your own key of its role, that it made the same; exit 1 if it did not."""
    from forge.reconcile.reproducing import reproduce as carry_out
    from forge.reconcile.stop import Stop, stop_on_signals
    from forge.ui.progress import display

    with reader_of(context) as reader:
        place = reader.place(ref, writes=True)
        stop, shown = Stop(), display()
        try:
            with stop_on_signals(stop):
                done = carry_out(place, step, shown, stop)
        finally:
            shown.close()
    products = ", ".join(f"{name} {digest}" for name, digest in sorted(done.body.products.items()))
    what = f"made the same: {products}" if done.ran else "was carried out before"
    links = f"; signed with it: {', '.join(done.links)}" if done.links else ""
    typer.echo(f"{step} {what}; signed by {done.signer}{links}", err=True)
