"""SQS and SNS: mltrigger beside a bare boto3 loop and Celery, on one server in one run; and the
kill storm on SQS.
"""
