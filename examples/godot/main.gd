# godot --headless --path . --script main.gd -- MODEL OUTPUT.png [EXPECTED.png]
extends SceneTree

const SIZE := Vector2i(96, 64)
const PROMPT := "a tree"
const SEED := 7

var thread := Thread.new()

func _initialize():
	# painting takes a while: never on the main thread
	thread.start(paint.bind(OS.get_cmdline_user_args()[0]))

func paint(model: String):
	var pixels: PackedByteArray = ClassDB.class_call_static("BonsaiPainter", "paint", model, PROMPT, SIZE.x, SIZE.y, 4, SEED)
	show_picture.call_deferred(pixels)

func show_picture(pixels: PackedByteArray):
	thread.wait_to_finish()
	if pixels.size() != SIZE.x * SIZE.y * 4:
		quit(1)
		return
	# in a game: ImageTexture.create_from_image(image)
	var image := Image.create_from_data(SIZE.x, SIZE.y, false, Image.FORMAT_RGBA8, pixels)
	var arguments := OS.get_cmdline_user_args()
	var saved := image.save_png(arguments[1]) == OK
	if saved and arguments.size() > 2:
		var expected := Image.load_from_file(arguments[2])
		expected.convert(Image.FORMAT_RGBA8)
		saved = expected.get_data() == pixels
		print("the same pixels" if saved else "other pixels than expected")
	quit(0 if saved else 1)
