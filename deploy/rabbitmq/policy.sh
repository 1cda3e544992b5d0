#!/bin/sh
# Set the delivery limit of all quorum queues of a virtual host, on a running node: policy.sh [VHOST]
# A broker that drops a message before asyncworker has given its task up (ASYNCWORKER_MAX_DELIVERIES) loses it without a word.
# Definitions that are loaded at the start would do the same, but then RabbitMQ makes no default user.
set -eu
until rabbitmqctl --quiet await_startup 2> /dev/null; do sleep 1; done
rabbitmqctl --quiet set_policy --vhost "${1:-/}" --apply-to queues asyncworker-delivery-limit '.*' '{"delivery-limit": 1000}'
