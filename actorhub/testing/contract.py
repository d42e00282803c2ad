"""The contract of a broker adapter: all checks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from actorhub.broker import Broker
from actorhub.testing import consuming, publishing, queues, server_profiles

Check = Callable[[Broker, str], Awaitable[None]]
"""Called with a broker and a prefix for the names of its queues and exchanges; raises AssertionError if the adapter breaks the
contract."""

CONTRACT: tuple[Check, ...] = (
    publishing.a_message_arrives_as_it_was_sent,
    publishing.each_publish_is_confirmed_once_and_messages_keep_their_order,
    publishing.a_message_for_a_missing_queue_is_unroutable,
    publishing.a_full_queue_refuses_messages,
    publishing.messages_published_before_close_are_sent,
    publishing.a_broadcast_reaches_every_subscriber_once_and_in_order,
    publishing.a_broadcast_without_subscribers_is_stored_and_the_link_stays_usable,
    publishing.a_broadcast_before_close_is_sent_and_one_after_it_is_lost,
    publishing.subscribing_a_missing_queue_raises_actor_not_found,
    consuming.unacknowledged_messages_are_redelivered_in_order,
    consuming.a_rejected_message_is_requeued_or_dropped,
    consuming.a_stopped_consumer_may_still_acknowledge_and_requeue_its_messages,
    consuming.prefetch_bounds_unacknowledged_messages,
    consuming.the_single_active_consumer_gets_all_messages,
    consuming.messages_of_a_closed_link_go_to_the_standby_consumer,
    consuming.consuming_a_missing_queue_raises_actor_not_found,
    consuming.a_consumer_ends_once_when_its_queue_is_deleted,
    queues.declaring_a_queue_again_changes_nothing_and_other_arguments_are_refused,
    queues.the_state_of_a_queue_counts_waiting_messages_and_consumers,
    queues.a_queue_is_deleted_only_if_empty_on_request,
    queues.an_unused_queue_expires,
    queues.an_expired_or_rejected_message_goes_to_the_dead_letter_queue,
    queues.a_quorum_queue_redelivers_in_order_without_a_limit,
    queues.a_quorum_queue_loses_no_dead_letter,
    queues.a_stream_is_read_from_any_offset_and_keeps_what_was_read,
    queues.purge_removes_waiting_messages,
    queues.peek_returns_the_oldest_messages_of_a_stream_and_removes_none,
    *server_profiles.CHECKS,
)
