"""What models cost by their provider's list, for estimates and budgets."""

from pgsrm.models.server import OPENAI

# US dollars for a million tokens, read and written, at api.openai.com.
LIST_PRICES = {"gpt-4o-mini": (0.15, 0.60)}


def prices(
    model: str, base_url: str | None, input_price: float | None, output_price: float | None
) -> tuple[float | None, float | None]:
    """The prices of a million tokens, read and written.

    One that is None is the list price of a model in `LIST_PRICES` at api.openai.com. Of other models, and elsewhere, it
    remains None: unknown.
    """
    at_openai = base_url is None or base_url.rstrip("/") == OPENAI
    listed = LIST_PRICES.get(model, (None, None)) if at_openai else (None, None)
    return listed[0] if input_price is None else input_price, listed[1] if output_price is None else output_price
