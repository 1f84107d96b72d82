"""Models on AWS: Lambda functions and SageMaker endpoints."""
