"""Message brokers of others, as sources and as targets: record in the log, then acknowledge.

One process of a bus reads a source, the others stand by. So the log keeps the order in which the
broker hands out. Leases, retries, dead letters and replay are those of the log. A message counts as
taken only when its event is durable: a reader that is killed in between gets it again.

=========  ==========================  =======================  ===================================
broker     the same message again      order in the log         guarantee, and losses
=========  ==========================  =======================  ===================================
kafka      one event: partition,       of each partition        at least once. Lost: messages that
           offset and time are its id                           the retention of Kafka deletes
                                                                before they are read
nats       one event: sequence and     of the stream            at least once. Lost: as above, by
           time of JetStream                                    the limits of the stream
redis      one event: the id of the    of the stream            at least once. Lost: entries that
           entry                                                MAXLEN removes, and those that
                                                                Redis had not synced when it died
rabbitmq   one event with a            of the queue; messages   at least once. Lost: messages that
           ``message_id``. Without     that come again are      are not persistent, or whose queue
           one a second event, which   later                    is not durable, at a restart
           says ``redelivered``
mqtt       a second event: MQTT has    of each publisher        at least once, at QoS 1. Lost: QoS 0
           no ids. A CloudEvent has                             while away, and messages beyond the
           its own                                              limits of the session
=========  ==========================  =======================  ===================================

A CloudEvent, binary or structured, is that event with its own id and source, on every broker.

FastStream makes the connections, with its security. Its subscribers are not used. They take one
message at a time from RabbitMQ and MQTT. Their acknowledgement of Kafka commits messages that are
not recorded yet. They repair lost connections in silence, and a source has to say that it waits.
"""
