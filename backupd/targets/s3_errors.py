"""What a store's and boto3's errors mean for a target in a bucket, in words without secrets.

Only codes, status numbers and names of classes are passed on: a server's own message may repeat
the key it was asked with or the string that was signed.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from backupd.errors import (
    ColdError,
    TargetError,
    TargetFullError,
    TargetReadOnlyError,
    TargetUnreachableError,
)

_WRONG_KEY = frozenset(
    {
        "SignatureDoesNotMatch",
        "InvalidAccessKeyId",
        "InvalidToken",
        "ExpiredToken",
        "TokenRefreshRequired",
        "AuthorizationHeaderMalformed",
    }
)
_REFUSED = frozenset({"AccessDenied", "AllAccessDisabled", "AccountProblem"})
# What is said to a put with a retention where the bucket has no Object Lock.
_NO_LOCK = frozenset({"InvalidRequest", "ObjectLockConfigurationNotFoundError"})
_FULL = frozenset({"QuotaExceeded", "InsufficientStorage", "XMinioStorageFull", "EntityTooLarge"})
_AGAIN = frozenset(
    {
        "InternalError",
        "ServiceUnavailable",
        "SlowDown",
        "RequestTimeout",
        "OperationAborted",
        "ConditionalRequestConflict",
        "Throttling",
        "ThrottlingException",
        "TooManyRequests",
        "RequestLimitExceeded",
    }
)
# boto3's own exceptions that mean the network or the server did not hold.
_NETWORK = frozenset(
    {
        "EndpointConnectionError",
        "ConnectionClosedError",
        "ConnectTimeoutError",
        "ReadTimeoutError",
        "ProxyConnectionError",
        "HTTPClientError",
        "ConnectionError",
        "ResponseStreamingError",
        "IncompleteReadError",
        "ProtocolError",
        "IncompleteRead",
        "TimeoutError",
        "CredentialRetrievalError",
        "MetadataRetrievalError",
    }
)
# botocore could not read an answer, or it lacks one of what every answer of its kind has.
_NO_ANSWER = frozenset({"ResponseParserError", "KeyError"})
_ALWAYS = frozenset(
    {
        "Body",
        "ContentLength",
        "ETag",
        "Key",
        "LastModified",
        "NextContinuationToken",
        "Size",
        "UploadId",
    }
)
_NO_PAGES = "see that `endpoint_url` is the server's address for S3, not for its web pages"
_NO_CREDENTIALS = frozenset(
    {
        "NoCredentialsError",
        "PartialCredentialsError",
        "ProfileNotFound",
        "TokenRetrievalError",
        "SSOTokenLoadError",
        "UnauthorizedSSOTokenError",
    }
)


def endpoint_host(endpoint_url: str) -> str:
    """The host and port of an endpoint, without a user or password that may stand before them."""
    parts = urlsplit(endpoint_url)
    host = parts.hostname or "Amazon S3"
    return f"{host}:{parts.port}" if parts.port else host


def is_from_store(error: Exception) -> bool:
    """Whether `error` is boto3's, its HTTP library's or the network's, and no mistake of ours.

    That an answer lacks what every answer has is the store's mistake too.
    """
    if isinstance(error, KeyError):
        return error.args[0] in _ALWAYS
    root = type(error).__module__.partition(".")[0]
    return isinstance(error, OSError) or root in {"boto3", "botocore", "urllib3", "http", "ssl"}


def error_code(error: Exception) -> tuple[str, int]:
    """The server's code and HTTP status in a boto3 `ClientError`; empty and 0 for others."""
    response = getattr(error, "response", None)
    if not isinstance(response, dict):
        return "", 0
    code = str(response.get("Error", {}).get("Code", ""))
    return code, int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _is_page(error: Exception) -> bool:
    response = getattr(error, "response", {})
    headers = response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return str(headers.get("content-type", "")).startswith("text/html")


def translate(
    error: Exception, target: str, address: str, endpoint_url: str, *, writing: bool
) -> TargetError:
    """The `TargetError` that says what `error` means for `address` (`s3://bucket/key`)."""
    code, status = error_code(error)
    host = endpoint_host(endpoint_url)
    bucket = address.removeprefix("s3://").split("/", 1)[0]
    if not code and not status:
        return _local(type(error).__name__, target, host)
    said = f"{host} answers {code or status}"
    deed = "written" if writing else "read"
    sentence = f"target {target!r}: {address} cannot be {deed}: {said}"
    if code == "NoSuchBucket":
        return absent_bucket(target, bucket, endpoint_url)
    if code == "InvalidObjectState":
        return ColdError(
            f"target {target!r}: {address} is in an archive class and not thawed",
            hint="`backupd restore` asks for what it needs, and says how long that takes",
        )
    if code in _NO_LOCK and writing:
        return TargetError(
            sentence,
            hint=f"where `object_lock` is set, bucket {bucket!r} must have Object Lock enabled",
        )
    if code in _WRONG_KEY:
        return TargetError(
            f"target {target!r}: {said} to the credentials it was given",
            hint="see that key and secret belong together and that this box's clock is right",
        )
    if code == "RequestTimeTooSkewed":
        return TargetError(
            f"target {target!r}: {said}: this box's clock is wrong",
            hint="set the clock (`timedatectl set-ntp true`)",
        )
    if code in _FULL or status == 507:
        return TargetFullError(
            f"target {target!r} is full: {address} cannot be written: {said}",
            hint="raise the quota, or run `backupd forget` and `backupd prune`",
        )
    if code in _AGAIN or status >= 500 or status == 429:
        # A gateway's, whose server is away; or one with 200 that botocore took for an error.
        if _is_page(error):
            sentence = f"{sentence}, with a web page"
            return TargetUnreachableError(sentence, hint=f"it may pass; otherwise {_NO_PAGES}")
        return TargetUnreachableError(sentence, hint="it may pass; otherwise see the server's log")
    if code in _REFUSED or status == 403:
        hint = f"see that the credentials are right and that bucket {bucket!r} allows them this"
        return (TargetReadOnlyError if writing else TargetError)(sentence, hint=hint)
    if code == "MissingContentLength" or status == 411:
        return TargetError(sentence, hint="set `checksums: when_required` for this target")
    return TargetError(sentence)


def absent_bucket(target: str, bucket: str, endpoint_url: str) -> TargetError:
    """The error for a bucket that is not there."""
    return TargetError(
        f"target {target!r}: there is no bucket {bucket!r} at {endpoint_host(endpoint_url)}",
        hint="create the bucket, or correct `bucket` and `endpoint_url`",
    )


def _local(kind: str, target: str, host: str) -> TargetError:
    """The error for what failed before a server answered; `kind` is the exception's class."""
    if kind == "SSLError":
        return TargetError(
            f"target {target!r}: the certificate of {host} is not to be trusted",
            hint="set `ca_bundle` to the authority that signed it",
        )
    if kind in _NO_CREDENTIALS:
        return TargetError(
            f"target {target!r}: there are no credentials for {host} ({kind})",
            hint="set `credentials_file` or `profile`, or AWS_ACCESS_KEY_ID and its secret",
        )
    if kind in _NO_ANSWER:
        return TargetError(
            f"target {target!r}: what {host} answers is not what an S3 server does",
            hint=_NO_PAGES,
        )
    if kind in _NETWORK:
        return TargetUnreachableError(
            f"target {target!r}: {host} does not answer ({kind})",
            hint="see that the server runs and that `endpoint_url` and the network are right",
        )
    return TargetError(f"target {target!r}: the request to {host} cannot be made ({kind})")
