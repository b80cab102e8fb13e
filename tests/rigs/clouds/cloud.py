"""What the tests ask of clouds through the clouds' own clients: containers, buckets, credentials that may little.

    cloud.py container ENDPOINT ACCOUNT KEY NAME
    cloud.py remove    ENDPOINT ACCOUNT KEY NAME
    cloud.py sas       ENDPOINT ACCOUNT KEY NAME PERMISSIONS SECONDS
    cloud.py download  ENDPOINT ACCOUNT KEY CONTAINER NAME FILE
    cloud.py bucket    ENDPOINT NAME
"""

import datetime
import sys


def container(endpoint, account, key, name):
    from azure.storage.blob import BlobServiceClient

    BlobServiceClient(endpoint, credential={"account_name": account, "account_key": key}).create_container(name)


def remove(endpoint, account, key, name):
    from azure.storage.blob import BlobServiceClient

    BlobServiceClient(endpoint, credential={"account_name": account, "account_key": key}).delete_container(name)


def sas(_endpoint, account, key, name, permissions, seconds):
    from azure.storage.blob import ContainerSasPermissions, generate_container_sas

    now = datetime.datetime.now(datetime.timezone.utc)
    print(
        generate_container_sas(
            account,
            name,
            account_key=key,
            permission=ContainerSasPermissions.from_string(permissions),
            start=now - datetime.timedelta(hours=1),
            expiry=now + datetime.timedelta(seconds=int(seconds)),
        )
    )


def download(endpoint, account, key, container, name, path):
    from azure.storage.blob import BlobClient

    client = BlobClient(endpoint, container, name, credential={"account_name": account, "account_key": key})
    with open(path, "wb") as file:
        client.download_blob().readinto(file)


def bucket(endpoint, name):
    import boto3

    boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="everpoint",
        aws_secret_access_key="everpoint",
    ).create_bucket(Bucket=name)


if __name__ == "__main__":
    {"container": container, "remove": remove, "sas": sas, "download": download, "bucket": bucket}[sys.argv[1]](*sys.argv[2:])
