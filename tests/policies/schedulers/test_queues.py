from hypothesis import given
from hypothesis import strategies as st

from kvsim.policies.schedulers import FcfsQueue, PriorityQueue, Request

KEYS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), max_size=8)


def requests_of(keys):
    return [
        Request(
            index=index, prompt_tokens=1, max_tokens=1, stop_tokens=2, priority=priority, arrival=arrival, rank=-index
        )
        for index, (priority, arrival) in enumerate(keys)
    ]


def drain(queue):
    return [queue.pop() for _ in range(len(queue))]


@given(KEYS)
def test_by_priority_then_arrival_then_rank(keys):
    queue = PriorityQueue()
    for request in requests_of(keys):
        queue.add(request)
    order = list(queue)
    assert [(r.priority, r.arrival, r.rank) for r in order] == sorted((r.priority, r.arrival, r.rank) for r in order)
    assert not order or queue.head() is order[0]
    assert drain(queue) == order


def test_first_come_first_served_with_returned_requests_in_front():
    first, second, third = requests_of([(0, 0)] * 3)
    queue = FcfsQueue()
    queue.add(first)
    queue.add(second)
    queue.put_back(third)
    assert queue.head() is third
    assert drain(queue) == [third, first, second]


@given(KEYS, st.integers(0, 7))
def test_a_request_that_stopped_while_it_waited_is_gone(keys, place):
    for queue in (FcfsQueue(), PriorityQueue()):
        requests = requests_of(keys)
        for request in requests:
            queue.add(request)
        if place < len(requests):
            queue.remove(requests[place])
            assert requests[place] not in drain(queue)
