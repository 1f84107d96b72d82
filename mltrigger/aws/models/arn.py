"""Models named by an ARN: a Lambda function or a SageMaker endpoint."""

from __future__ import annotations

from mltrigger.aws.models.awslambda import Lambda
from mltrigger.aws.models.sagemaker import SageMaker
from mltrigger.errors import InvalidModel
from mltrigger.versions.address import Address
from mltrigger.versions.scheme import Description, Endpoint, Scheme, Setting

__all__ = ["AwsArn", "SageMaker"]

_SOURCES = ("sns", "sqs", "s3")


class AwsArn(Scheme):
    """A model named ``arn:aws:lambda:…:function:NAME`` or ``arn:aws:sagemaker:…:endpoint/NAME``.

    The options are those of :class:`~mltrigger.aws.models.awslambda.Lambda` and :class:`SageMaker`.
    """

    def describe(self, address: Address) -> Description:
        """Check the name and the options."""
        return _scheme(address).describe(address)

    def open(self, address: Address, setting: Setting) -> Endpoint:
        """Return the endpoint. Nothing is connected yet."""
        return _scheme(address).open(address, setting)


def _scheme(address: Address) -> Scheme:
    parts = address.text.split(":")
    service = parts[2] if len(parts) > 5 else ""
    if service == "lambda":
        return Lambda()
    if service == "sagemaker":
        return SageMaker()
    advice = (
        "it is where events come from: mt.subscribe(arn, model)"
        if service in _SOURCES
        else "models are lambda functions and sagemaker endpoints"
    )
    forms = (
        "arn:aws:lambda:REGION:ACCOUNT:function:NAME:VERSION or"
        " arn:aws:sagemaker:REGION:ACCOUNT:endpoint/NAME"
    )
    raise InvalidModel(f"{address.text[:200]!r} names no model; {advice}; write {forms}")
