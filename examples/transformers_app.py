"""An app that already uses transformers, with a strategy switched on: two lines are new.

python examples/transformers_app.py PICTURE "Is there a dog in the image?" [MODEL_FOLDER_OR_ID]
"""

import sys

import halu
from halu.adapters import transformers  # or `import transformers`, where torchvision matches torch
from halu.images import open_image
from halu.models import builtin

picture, question = open_image(sys.argv[1]), sys.argv[2]
name = sys.argv[3] if len(sys.argv) > 3 else str(builtin()["tiny-llava"])
model = transformers.AutoModelForImageTextToText.from_pretrained(name)
processor = transformers.AutoProcessor.from_pretrained(name)

halu.enable(model, processor, "vhr")  # new

content = [{"type": "image", "image": picture}, {"type": "text", "text": question}]
inputs = processor.apply_chat_template(
    [{"role": "user", "content": content}],
    add_generation_prompt=True,
    tokenize=True,
    return_dict=True,
    return_tensors="pt",
)
output = model.generate(**inputs, max_new_tokens=40, do_sample=False)
print(processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))

halu.disable(model)  # new; the model is as it was
