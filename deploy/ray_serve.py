"""halu in vLLM engines under Ray Serve, one engine a replica. Written with care; not run yet.

    pip install 'ray[serve]'            # in vLLM's environment
    serve run deploy.ray_serve:app

All branches of a request stay in the replica that plans them, so that Ray may spread requests as
it likes.
"""

from typing import Any

from ray import serve


@serve.deployment(num_replicas=2, ray_actor_options={"num_gpus": 1}, max_ongoing_requests=32)
class Answers:
    """One engine."""

    def __init__(self, model: str) -> None:
        import halu

        self.vlm = halu.load(model, backend="vllm")

    def ask(self, image: Any, question: str, **options: Any) -> dict[str, Any]:
        """One answer, as JSON; options are those of `VLM.ask`."""
        return self.vlm.ask(image, question, **options).model_dump(mode="json")


app = Answers.bind("llava-hf/llava-1.5-7b-hf")
