"""The keys and their contents. `{jobs}` is the prefix in braces: a hash tag, so that all keys share one slot.

=====================  ======  =================================================================================
key                    type    what
=====================  ======  =================================================================================
{jobs}:job             hash    id → record: time of the push, priority, topic, unique key, perhaps key, limits and place in
                               a flow, and the message byte for byte; a job is here from its push to its end
{jobs}:ready:TOPIC     zset    id → position: by priority, then by the microsecond it became ready
{jobs}:later:TOPIC     zset    id → when the job becomes due, in microseconds
{jobs}:dead:TOPIC      zset    id → when it became a dead letter
{jobs}:dead-letter:TOPIC  hash id → id of its fingerprint, of each dead letter; empty until it has one
{jobs}:dead-cause:TOPIC  hash  id of a fingerprint with dead letters → what it says
{jobs}:dead-group:TOPIC,F  zset  id → when it became a dead letter, of those with fingerprint F
{jobs}:history         hash    id → attempts, redeliveries, crashes, deferrals, reason, errors; only for jobs that have any
{jobs}:cursor          hash    id → cursor of a resumable job
{jobs}:note            hash    id → what the job has told: see telling.lua
{jobs}:owners          zset    worker process → when its lease expires
{jobs}:held:OWNER      hash    id → token, for each job that this worker process has reserved; the token names the limits
                               of which the job holds a slot: see `take` in lines.lua
{jobs}:owner:OWNER     hash    the last requests of this worker process and their answers, in case a reply was lost
{jobs}:reserved        hash    topic → how many of its jobs are reserved
{jobs}:request:ID      string  one push of the last minute: which of its messages were refused
{jobs}:unique          hash    unique key → expiry (0: as long as the job exists), and the job's id; the separator is ?
                               while the next enqueue may take the key over: see BindsKeys
{jobs}:unique-until    zset    unique key → expiry, for the keys that have one
{jobs}:cancel          set     reserved jobs that are to be cancelled; a second entry with the suffix "\\0force" means
                               that the job's worker may be replaced to end it
{jobs}:ended:ID        string  the end of a job with a result, of a cancelled one, or of a done job that is kept: then with its
                               record, progress, timeline and history; expires after its time to live
{jobs}:log:ID          string  the log lines of a done job that is kept; expires with it
{jobs}:done:TOPIC      zset    id → when it was done, of jobs that are kept
{jobs}:done-until:TOPIC  zset  id → until when the job is kept; those whose time is over leave both lists in housekeeping
{jobs}:done-topics     set     topics with done jobs that are kept
{jobs}:followers       zset    id → until when a client waits for the job's end
{jobs}:end:ID          list    has an entry once a followed job has ended
{jobs}:retired         zset    worker process that can reserve nothing any more → when its jobs are released: see `release` in
                               removal.lua; also one of an older release, see `need_schema` in lines.lua
{jobs}:line:TOPIC,L    zset    id → position, of the ready jobs of one line. L is the limits of its jobs, and in a fair topic
                               first "=rank length key". Here and below, the comma stands for a line break, which also
                               separates several limits; the rank is 9 - priority
{jobs}:lines:TOPIC     hash    line → the limit under which it is filed; empty for an open line. "=" → "fair", or the most
                               reservations of one key at once, of a fair topic
{jobs}:shut:TOPIC      zset    closed line → position of its first job
{jobs}:filed:S         zset    line of shelf S → the same. S is TOPIC for open lines, "M,TOPIC" for those closed by limit M
{jobs}:fair:S          zset    the same, for lines with "=rank length key"
{jobs}:turns:S         zset    group ("rank key") with lines of shelf S → rank and turn
{jobs}:group:S,G       zset    line of group G on shelf S → position of its first job
{jobs}:turn:TOPIC      hash    group → turn; "last" and "front" → the highest turn and the lowest
{jobs}:grouped:TOPIC   hash    group → how many lines
{jobs}:shelves:TOPIC,G set     limits under which lines of group G are filed
{jobs}:depth:TOPIC     zset    key → how many jobs stand in its lines
{jobs}:opening:TOPIC   zset    limit with room, whose lines the next reserve looks at → order of the best one, or a lower one
{jobs}:opens:TOPIC     zset    limit of closed lines → when its rate or closure lets the next job start
{jobs}:lined           hash    topic → how many jobs stand in lines
{jobs}:limited         hash    topic → how many of these stand in closed lines
{jobs}:limit-waiting   hash    limit → how many jobs stand in lines that are filed under it
{jobs}:limit-topics:M  set     topics with lines that are filed under limit M
{jobs}:limit-used      hash    limit → reservations that hold a slot
{jobs}:limit-rate      zset    limit → theoretical time of the next reservation at its full rate
{jobs}:limit-closed    zset    limit → until when a job has closed it
{jobs}:limit-defined   hash    name → definition: concurrency, interval in microseconds, burst
{jobs}:limit-overridden  hash  limit or name → definition
{jobs}:documents:KIND  hash    name → version, time of the change, time of its expiry, and the data of a document
{jobs}:document-names:KIND  zset  name → 0, to list them
{jobs}:document-until:KIND  zset  name → when the document expires
{jobs}:document-versions  hash  kind → how often its documents have changed
{jobs}:statistics:SPAN zset    time, topic, job and numbers of each row of statistics → 0; a span is 60, 300 or 3600 seconds
{jobs}:waiting         set     topics with members of flows that wait
{jobs}:waiting:TOPIC   zset    id → position, of members that wait for others
{jobs}:needed:TOPIC    zset    id → when it became a dead letter, of members whose flow goes on if they are retried
{jobs}:flow            hash    flow → packed state, counters and settings
{jobs}:flow:FLOW       hash    what flows.lua calls the parts of a flow: n and a member's id → its packed node; g and a stage's
                               name (none: the body) → its packed group; d, a list's name and a chunk's number → packed ids
                               of up to 100 members that are after a target; t and an id → how many members will still take
                               its result; x and an id → the member ended before the last part came
{jobs}:flow-order:FLOW zset    id → number, of all members, or if there were more than 1,000, of those that have not ended
{jobs}:flow-ended:FLOW hash    id → how a member has ended, unless there were more than 1,000
{jobs}:flow-results:FLOW  hash id → result that a member will still take
{jobs}:flow-dead:FLOW  zset    id → when it died, of dead members of a flow that goes on; +inf if it cannot be retried
{jobs}:flow-work:FLOW  list    packed steps that are left to be done: see carry_out in flows.lua
{jobs}:flow-early:FLOW list    groups whose members had all ended before the last part came
{jobs}:flows-ranked:R  zset    flow → when it was pushed; R is 0 for failed flows, 1 for open and running ones, 2 for others
{jobs}:flows-working   zset    flow with steps in flow-work → since when
{jobs}:flows-cancelled set     cancelled flows that have not ended yet
{jobs}:flows-open      zset    flow without its last part → when it is dropped unless another part comes
{jobs}:flows-kept      zset    flow that has ended → until when it is kept
{jobs}:flows-failed    zset    flow with dead members → when to look whether they are to be dropped
{jobs}:pushed          hash    topic → how many jobs pushes have added since counts began
{jobs}:refused         hash    topic → how many they have not added, because a key was held or the chosen id known
{jobs}:topics          set     topics that may hold jobs
{jobs}:paused          set     paused topics
{jobs}:wake:TOPIC      zset    the wake token: one member while an idle worker should look; that worker removes it.
                               A topic that is paused, or not in {jobs}:topics, has none
{jobs}:bell:OWNER      zset    one member when a worker has to end its own wait
{jobs}:in:TOPIC        list    the inlet: producers in any language RPUSH here
{jobs}:meta            hash    schema version, number of the last reservation, time of the last housekeeping
=====================  ======  =================================================================================

The scripts compose these names themselves, see scripts/common.lua. Our few plain commands use the methods below.
"""

from __future__ import annotations


class Keys:
    """The names of the keys under one base."""

    def __init__(self, base: str) -> None:
        self.base = base
        self.topics = f"{base}:topics"
        self.paused = f"{base}:paused"
        self.pushed = f"{base}:pushed"
        self.document_versions = f"{base}:document-versions"
        self.done_topics = f"{base}:done-topics"

    def wake(self, topic: str) -> str:
        return f"{self.base}:wake:{topic}"

    def woken(self, wake: str) -> str:
        """Return the topic of a wake key."""
        return wake[len(self.base) + len(":wake:") :]

    def bell(self, owner: str) -> str:
        return f"{self.base}:bell:{owner}"

    def inlet(self, topic: str) -> str:
        return f"{self.base}:in:{topic}"

    def done(self, topic: str) -> str:
        return f"{self.base}:done:{topic}"

    def end(self, job_id: str) -> str:
        return f"{self.base}:end:{job_id}"

    def flow_end(self, flow_id: str) -> str:
        return f"{self.base}:end:flow:{flow_id}"
