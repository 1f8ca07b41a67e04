"""Shows how to use the client: python3 example.py http://localhost:3000 [token]"""

import sys

import velocity


def main():
    client = velocity.Client(*sys.argv[1:3])
    try:
        for i in range(12):
            decision = client.check("alice")
            print(i + 1, "allowed" if decision["allowed"] else f"denied, retry in {decision['retry_after_ms']} ms")
        print("refunded:", client.refund("alice", 2, taken_at_us=decision["taken_at_us"])["remaining"], "left")
        print("charged:", client.charge("alice", 5)["remaining"], "left")
        print("two checks:", [a["allowed"] for a in client.checks([{"key": "bob", "cost": 10}, {"key": "bob"}])])
        try:
            client.check("alice", policy="none")
        except velocity.Problem as problem:
            print("refused:", problem)
    finally:
        client.close()


main()
