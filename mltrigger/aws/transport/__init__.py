"""The broker on SNS and SQS: how events travel."""
