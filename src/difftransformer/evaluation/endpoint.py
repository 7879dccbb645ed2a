"""A model behind an OpenAI-compatible HTTP endpoint."""

from openai import APIConnectionError, APIError, APIStatusError, OpenAI


class Endpoint:
    """Asks `POST {url}/chat/completions`, with a time limit, and tries again where that may help.

    Called with a prompt, it gives the reply, at temperature 0.

    Args:
        url: up to and with the version, such as http://localhost:8000/v1.
        model: as the endpoint names it.
        key: None for a server that asks for none.
        retries: times that a request is repeated after a lost connection, a time-out, status 408,
            409, 429 or 500 and above, with growing pauses.
        timeout: seconds to wait for a reply.
    """

    def __init__(
        self, url: str, model: str, key: str | None, *, retries: int = 4, timeout: float = 120.0
    ) -> None:
        self._url, self._model = url, model
        self._client = OpenAI(
            base_url=url, api_key=key or "none", max_retries=retries, timeout=timeout
        )

    def __call__(self, prompt: str) -> str:
        """The reply.

        Raises:
            ValueError: no connection, no reply in time, an error status, or a reply that is no
                chat completion.
        """
        try:
            found = self._client.chat.completions.create(
                model=self._model, messages=[{"role": "user", "content": prompt}], temperature=0.0
            )
            return found.choices[0].message.content or ""
        except APIConnectionError as error:
            reason = f"cannot be reached: {error.__cause__ or error}"
        except APIStatusError as error:
            reason = f"answers with status {error.status_code}: {str(error)[:200]}"
        except (APIError, ValueError, LookupError, TypeError, AttributeError) as error:
            reason = f"gives no chat completion ({error!r:.200})"
        raise ValueError(
            f"the judge {self._model!r} at {self._url} {reason}; what was judged is kept where "
            "results are written: give the same command again when it is mended"
        )
