"""Whether the Hugging Face hub can be reached: its client tries for half a minute, and says so in ten lines."""

_SECONDS = 5


def hub_problem() -> str | None:
    """Why nothing can be fetched from the hub now, None if it answers; a few words, within seconds."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        get_session().head(constants.ENDPOINT, timeout=_SECONDS)
    except Exception as error:  # the transport's own: no name, no route, no answer in time, a proxy
        return f"no connection to {constants.ENDPOINT}: {' '.join(str(error).split())[:100] or type(error).__name__}"
    return None
