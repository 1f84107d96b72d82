"""Events through SNS, SQS and S3: the broker of ``aws://`` and the handler for Lambda."""
