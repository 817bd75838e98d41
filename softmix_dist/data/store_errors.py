"""What went wrong at an object store: one line that says what to do, without secrets."""

from __future__ import annotations

import os
import re
from urllib.parse import quote, urlsplit

from softmix_dist.errors import StoreError, StoreUnavailableError

# Schemes that are read, and the variables with the credentials of each.
CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_SKIP_SIGNATURE=true for a public "
    "bucket",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS, or GOOGLE_SKIP_SIGNATURE=true for a public bucket",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, or "
    "AZURE_SKIP_SIGNATURE=true for a public container",
}

_MISSING = r"NoSuchBucket|ContainerNotFound|[Bb]ucket does not exist"
_NO_CREDENTIALS = (
    r"/latest/api/token|/latest/meta-data|computeMetadata|/metadata/identity|//169\.254\."
    r"|NoCredentials|Unable to locate credentials|Account must be specified"
)
_REFUSED = (
    r"InvalidAccessKeyId|SignatureDoesNotMatch|ExpiredToken|InvalidToken|TokenRefreshRequired"
    r"|AuthenticationFailed|InvalidAuthenticationInfo|Unauthenticated|401 Unauthorized"
)
_DENIED = r"PermissionDenied|PermissionError|AccessDenied|AllAccessDisabled|403 Forbidden"
_REGION = r"PermanentRedirect|AuthorizationHeaderMalformed|BareRedirect|IllegalLocation"
_BUSY = r"status code: (?:5\d\d|429|408)[ \w]*|SlowDown|ServiceUnavailable|RequestTimeout"
_ANSWERED = r"status code: \d"
_SLOW = r"timed out|TimedOut|Timeout(?:Error)?\b"
_SILENT = rf"HTTP error|Connect|connection|dns error|body error|{_SLOW}"


def store_error(error: Exception, url: str) -> StoreError:
    """Say in one line what a store's error means and what to do, without secrets.

    To be raised without the error as cause or context: it repeats requests and answers, and may
    not pickle.

    Parameters
    ----------
    error : Exception
    url : str

    Returns
    -------
    StoreError
        `StoreUnavailableError` where trying again later may help.
    """
    whole = f"{type(error).__name__}: {error}"
    text, parts = without_place(whole, url), urlsplit(url)
    needed = CREDENTIALS.get(parts.scheme, "those of the store")
    kind: type[StoreError] = StoreError
    if re.search(_MISSING, text):
        told = f"there is no bucket {parts.netloc!r}; create it, or correct the URL"
    elif busy := re.search(_BUSY, text):
        kind = StoreUnavailableError
        answer = busy[0].removeprefix("status code: ").strip()
        told = f"the store is not available ({answer}), and was asked again in vain; try later"
    elif re.search(_NO_CREDENTIALS, text):
        told = f"no credentials were found; set {needed}, wherever it is read"
    elif refused := re.search(_REFUSED, text):
        told = f"the credentials were refused ({refused[0]}); correct or renew {needed}"
    elif denied := re.search(_DENIED, text):
        told = f"access is denied ({denied[0]}); ask for the right, or use other credentials"
    elif re.search(_REGION, text):
        told = "the bucket is in another region; set AWS_REGION to it"
    elif re.search(_SILENT, text) and not re.search(_ANSWERED, text):
        kind = StoreUnavailableError
        told = (
            f"{_endpoint(whole)} does not answer ({_reason(text)}), and was asked again in vain; "
            "is it up, and its address right?"
        )
    else:
        # Not the body of the answer, which may repeat the request.
        told = re.sub(r"(status code: [\d]+[ \w]*).*", r"\1", whole.splitlines()[0])[:300]
    return kind(without_secrets(f"{url!r}: {told}"))


def without_place(text: str, url: str) -> str:
    """Take what the user named out of an error: a bucket or a path may hold any word.

    Parameters
    ----------
    text : str
    url : str
    """
    parts = urlsplit(url)
    bucket, path = parts.netloc, parts.path.strip("/")
    names = [name for name in (bucket, path, quote(path), quote(path, safe="")) if name]
    own = re.compile("|".join(rf"[/=]{re.escape(name)}(?![\w.-])" for name in names))
    rest = r"[^\s\"',)<>]*"

    def shorter(found: re.Match[str]) -> str:
        scheme, host, asked = found.groups()
        if host.startswith(f"{bucket}.") or own.search(asked):
            return scheme + host.removeprefix(f"{bucket}.")
        # Of a service that gives credentials.
        return found[0]

    text = re.sub(rf"(https?://)([^/\s\"',)<>]+)({rest})", shorter, text)
    text = re.sub(rf"(?<=location ){rest}", "", text)
    for name in names:
        # One word alone may be the error's own.
        more = f"(?:/{rest})?" if "/" in name else f"/{rest}"
        text = re.sub(rf"(?<![\w.-]){re.escape(name)}{more}", "", text)
    return text


def _endpoint(text: str) -> str:
    found = re.search(r"https?://[^/\s\"',)]+", text)
    return found[0] if found else "the endpoint"


def _reason(text: str) -> str:
    if "dns error" in text:
        return "no such host"
    if re.search(_SLOW, text):
        return "timed out"
    if re.search(r"[Cc](?:ould not|annot) connect", text):
        return "no connection"
    found = re.search(r'message: "([^"]+)"', text) or re.search(r"HTTP error: ([^\n]+)", text)
    return found[1].strip() if found else text.splitlines()[0][:100]


def without_secrets(text: str) -> str:
    """Take out what may be secret: variables of credentials, users and queries of URLs.

    Parameters
    ----------
    text : str
    """
    text = re.sub(r"(\w+://)[^/@\s]+@", r"\1", text)
    text = re.sub(r"(https?://[^\s?\"']+)\?[^\s\"']+", r"\1", text)
    for name, value in os.environ.items():
        secret = re.match(r"(AWS|AZURE|GOOGLE|GCP|GCS)_.*(KEY|SECRET|TOKEN|SAS|STRING)", name)
        # Shorter ones are names of test servers, and parts of words.
        if secret and len(value) >= 8:
            text = text.replace(value, "***")
    return text
