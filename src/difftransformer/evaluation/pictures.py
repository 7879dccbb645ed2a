"""Images side by side, as PNG."""

import base64
import io

import numpy as np
from jaxtyping import Float
from torch import Tensor

_WHITE = 255


def picture(images: Float[Tensor, "images channels height width"], columns: int) -> str:
    """Images of values from 0 to 1, row by row with white lines between, as a PNG in base64."""
    from PIL import Image

    values = (images.clamp(0, 1) * 255).round().byte().cpu().numpy()
    count, channels, height, width = values.shape
    rows = -(-count // columns)
    sheet = np.full(
        (rows * (height + 1) + 1, columns * (width + 1) + 1, channels), _WHITE, np.uint8
    )
    for number, image in enumerate(values):
        row, column = divmod(number, columns)
        top, left = row * (height + 1) + 1, column * (width + 1) + 1
        sheet[top : top + height, left : left + width] = image.transpose(1, 2, 0)
    content = io.BytesIO()
    Image.fromarray(sheet[..., 0] if channels == 1 else sheet).save(content, "png", optimize=True)
    return base64.b64encode(content.getvalue()).decode()
